"""FastAPI: take a card, create a Stripe customer, answer with its id.

    pip install fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app --workers 4

Each process has one producer, and reads only the answers to its own requests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from tokenferry import (
    AsyncProducer,
    AttachResult,
    CardRequest,
    CustomerCreate,
    InvalidInput,
    PublishError,
    StillRunning,
    TokenResult,
    UnknownRequest,
)


class NewCard(BaseModel):
    """What the browser sends."""

    number: str
    exp_month: int
    exp_year: int
    email: str


class Answer(BaseModel):
    """What the browser gets."""

    request_id: str
    customer: str | None = None
    failure: str | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One producer for the process. It is made after the server has forked."""
    async with AsyncProducer() as producer:
        app.state.producer = producer
        yield


def producer_of(request: Request) -> AsyncProducer:
    """The producer of this process. Tests put a `FakeAsyncProducer` here."""
    producer: AsyncProducer = request.app.state.producer
    return producer


ThisProducer = Annotated[AsyncProducer, Depends(producer_of)]
app = FastAPI(lifespan=lifespan)


@app.post("/cards")
async def add_card(card: NewCard, producer: ThisProducer) -> Answer:
    """Create a customer with this card."""
    request = CardRequest(number=card.number, exp_month=card.exp_month, exp_year=card.exp_year)
    return answer(await producer.request(request, attach=CustomerCreate(email=card.email), timeout=20))


@app.get("/cards/{request_id}")
async def look_again(request_id: str, producer: ThisProducer) -> Answer:
    """Say what became of a card that was still running. Only the process that asked knows it."""
    try:
        return answer(await producer.outcome(request_id))
    except UnknownRequest as error:
        raise HTTPException(404, str(error)) from None


def answer(result: AttachResult | TokenResult) -> Answer:
    """Return what the browser may know of a result."""
    customer = result.object_id if isinstance(result, AttachResult) else None
    failure = None if result.failure is None else result.failure.decline_code or result.failure.code
    return Answer(request_id=result.request_id, customer=customer, failure=failure)


@app.exception_handler(InvalidInput)
async def invalid_card(_: Request, error: InvalidInput) -> JSONResponse:
    """Name the fields to correct. Their values are not in the error."""
    return JSONResponse({"problems": {problem.field: problem.reason for problem in error.problems}}, 422)


@app.exception_handler(RequestValidationError)
async def invalid_body(_: Request, error: RequestValidationError) -> JSONResponse:
    """As FastAPI, but without the input, which may be a card number."""
    return JSONResponse({"problems": {".".join(map(str, each["loc"])): each["msg"] for each in error.errors()}}, 422)


@app.exception_handler(StillRunning)
async def still_running(_: Request, error: StillRunning) -> JSONResponse:
    """The request goes on; the browser asks again."""
    return JSONResponse({"request_id": error.request_id}, 202)


@app.exception_handler(PublishError)
async def broker_away(_: Request, error: PublishError) -> JSONResponse:
    """Nothing was lost: the browser may try again, under the same id if there is one."""
    return JSONResponse({"detail": "try again", "request_id": error.request_id}, 503)
