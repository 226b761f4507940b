# One image, several commands: `roundhouse up` (all in one), `roundhouse worker`, or any other. Its steps are the Makefile's.
FROM python:3.11-slim-trixie

# curl asks for health; util-linux is there already
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends make curl g++ \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 roundhouse

WORKDIR /app
COPY --chown=roundhouse:roundhouse Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=roundhouse:roundhouse backend ./backend
COPY --chown=roundhouse:roundhouse jobs ./jobs
COPY --chown=roundhouse:roundhouse pages ./pages
COPY --chown=roundhouse:roundhouse .streamlit ./.streamlit
COPY --chown=roundhouse:roundhouse app.py ./
RUN chown roundhouse:roundhouse /app && mkdir /data && chown roundhouse:roundhouse /data

USER 10001:10001
RUN make install

# Reachable from outside the container, so nothing starts until an account exists:
# `docker run ... roundhouse user add NAME --role admin`, or ROUNDHOUSE_ADMIN_PASSWORD for a first account `admin`.
ENV PATH="/app/.venv/bin:$PATH" \
    ROUNDHOUSE_HOST=0.0.0.0 \
    ROUNDHOUSE_HOME=/data/roundhouse \
    DATABASE_URL=sqlite:////data/models.db
VOLUME /data
EXPOSE 8501 8100
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s CMD ["curl", "-fsS", "http://127.0.0.1:8501/healthz"]
CMD ["roundhouse", "up"]
