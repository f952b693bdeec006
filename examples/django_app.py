"""Django: take a card, create a Stripe customer, answer with its id. One file; in a project these are views and urls.

    pip install django gunicorn
    gunicorn --chdir examples django_app:application --workers 4

The producer is made when it is first used, so in each process after the server has forked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from tokenferry import CustomerCreate, InvalidInput, Producer, PublishError, StillRunning, request_from

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example"),
        ALLOWED_HOSTS=["127.0.0.1", "testserver"],
    )
    django.setup()


@cache
def producer() -> Producer:
    """The one producer of this process. Thread-safe."""
    return Producer()


@require_POST
def add_card(request: HttpRequest) -> JsonResponse:
    """Create a customer with the card in the body."""
    try:
        given = json.loads(request.body)
        email = str(given.pop("email"))
    except (ValueError, KeyError, AttributeError):
        return JsonResponse({"problems": {"body": "must be a JSON object with email and the card"}}, status=422)
    return tokenized(given, email, producer())


def tokenized(fields: Mapping[str, Any], email: str, producer: Producer) -> JsonResponse:
    """Return the answer for a card. Tests call it with a `FakeProducer`."""
    try:
        result = producer.request(request_from("card", fields), attach=CustomerCreate(email=email), timeout=20)
    except InvalidInput as error:
        problems = {problem.field: problem.reason for problem in error.problems}
        return JsonResponse({"problems": problems}, status=422)
    except StillRunning as error:
        return JsonResponse({"request_id": error.request_id}, status=202)
    except PublishError as error:
        return JsonResponse({"detail": "try again", "request_id": error.request_id}, status=503)
    if result.failure is not None:
        return JsonResponse({"failure": result.failure.decline_code or result.failure.code}, status=402)
    return JsonResponse({"customer": result.object_id})


urlpatterns = [path("cards", add_card)]
application = WSGIHandler()
