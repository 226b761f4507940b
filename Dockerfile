# One image, several commands: `roundhouse up` (all in one), `roundhouse worker`, or any other. It holds the wheel, not the clone.
FROM python:3.11-slim-trixie AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE app.py ./
COPY .streamlit ./.streamlit
COPY backend ./backend
COPY jobs ./jobs
COPY pages ./pages
COPY docs ./docs
RUN pip install --no-cache-dir -c constraints.txt hatchling && python -m hatchling build -t wheel -d /wheels

FROM python:3.11-slim-trixie

# curl asks for health; g++ compiles the decoder library at the first deployment
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl g++ \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 roundhouse \
 && mkdir /data && chown roundhouse:roundhouse /data

COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
# with the extras of several machines: stores of artifacts, and runs on Kubernetes
RUN python -m venv /app && /app/bin/pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/*.whl)[cloud,kubernetes]"

USER 10001:10001

# Reachable from outside the container, so nothing starts until an account exists:
# `docker run ... roundhouse user add NAME --role admin`, or ROUNDHOUSE_ADMIN_PASSWORD for a first account `admin`.
ENV PATH="/app/bin:$PATH" \
    ROUNDHOUSE_HOST=0.0.0.0 \
    ROUNDHOUSE_HOME=/data/roundhouse \
    DATABASE_URL=sqlite:////data/models.db
WORKDIR /data
VOLUME /data
EXPOSE 8501 8100
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s CMD ["curl", "-fsS", "http://127.0.0.1:8501/healthz"]
CMD ["roundhouse", "up"]
