# Three images from one file. The producer's has neither the worker's code nor an HTTP client.
#   docker build --target producer -t tokenferry-producer .
#   docker build --target worker   -t tokenferry-worker .
#   docker build --target emulator -t tokenferry-emulator .
FROM python:3.11-slim-bookworm AS base
# Volumes mounted here belong to the user that fills them.
RUN useradd --create-home --uid 10001 tokenferry \
 && install -d -o tokenferry -m 0700 /keys /producer /out /app/.tokenferry
WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir -c constraints.txt hatchling editables
COPY producers producers

FROM base AS producer
# The wheel takes its packages from these folders; the secret half is absent from this image.
RUN mkdir -p worker/tokenferry_worker emulator/tokenferry_emulator \
 && pip install --no-cache-dir -c constraints.txt --no-build-isolation . \
 && rm -rf worker emulator
USER tokenferry
ENTRYPOINT ["tokenferry"]

FROM base AS worker
COPY worker worker
RUN mkdir -p emulator/tokenferry_emulator \
 && pip install --no-cache-dir -c constraints.txt --no-build-isolation '.[worker]' \
 && rm -rf emulator
USER tokenferry
# Finishes what is in hand within [worker] grace_seconds (20): give it 30 before killing it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tokenferry"]

FROM base AS emulator
COPY worker worker
COPY emulator emulator
RUN pip install --no-cache-dir -c constraints.txt --no-build-isolation '.[worker,emulator]'
USER tokenferry
ENTRYPOINT ["tokenferry"]
