# Three images from one file. The producer's has neither the worker's code nor an HTTP client.
#   docker build --target producer -t tokenferry-producer .
#   docker build --target worker   -t tokenferry-worker .
#   docker build --target emulator -t tokenferry-emulator .
# The base image by its digest, so that each build begins with the same files:
#   docker pull python:3.11-slim-bookworm && docker inspect --format '{{index .RepoDigests 0}}' python:3.11-slim-bookworm
#   docker build --build-arg BASE=python@sha256:... --target worker -t tokenferry-worker .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS base
# Volumes mounted here belong to the user that fills them.
RUN useradd --create-home --uid 10001 tokenferry \
 && install -d -o tokenferry -m 0700 /keys /producer /out /app/.tokenferry
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY locks locks
RUN pip install --no-cache-dir --require-hashes -r locks/build.txt
COPY producers producers

FROM base AS producer
# The wheel takes its packages from these folders; the secret half is absent from this image.
RUN mkdir -p worker/tokenferry_worker emulator/tokenferry_emulator \
 && pip install --no-cache-dir --require-hashes -r locks/producer.txt \
 && pip install --no-cache-dir --no-deps --no-build-isolation . \
 && rm -rf worker emulator
USER tokenferry
ENTRYPOINT ["tokenferry"]

FROM base AS worker
COPY worker worker
RUN mkdir -p emulator/tokenferry_emulator \
 && pip install --no-cache-dir --require-hashes -r locks/worker.txt \
 && pip install --no-cache-dir --no-deps --no-build-isolation . \
 && rm -rf emulator
USER tokenferry
# Finishes what is in hand within [worker] grace_seconds (20): give it 30 before killing it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tokenferry"]

FROM base AS emulator
COPY worker worker
COPY emulator emulator
RUN pip install --no-cache-dir --require-hashes -r locks/emulator.txt \
 && pip install --no-cache-dir --no-deps --no-build-isolation .
USER tokenferry
ENTRYPOINT ["tokenferry"]
