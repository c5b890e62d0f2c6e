# One image for every process of ours: `python -m workers` (the default), `starter api`, `python -m workers.bootstrap`,
# and each command of `starter` but those of the embedded stack (up, down, demo), whose servers are not in it.

# The minor version is the one that the tests run on and that the lock is resolved for.
FROM python:3.11.16-slim-trixie AS build
WORKDIR /source
RUN python -m venv --without-pip /opt/venv
# First what changes rarely: a change of our code does not install the libraries again.
COPY requirements.image.lock.txt ./
RUN pip --python /opt/venv install --no-cache-dir --require-hashes --requirement requirements.image.lock.txt
COPY . .
# Built by the locked setuptools, which nothing needs afterwards.
RUN pip --python /opt/venv install --no-cache-dir --no-deps --no-build-isolation . \
    && pip --python /opt/venv uninstall --yes setuptools

FROM python:3.11.16-slim-trixie
# Numbers, so that an orchestrator that forbids root can see it without a look into the image.
RUN groupadd --gid 10001 pipelines \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin pipelines
COPY --from=build /opt/venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH" PYTHONUNBUFFERED=1
# Declarations of pipelines are found here, too: `COPY orders.py /app/` in an image built on this one.
WORKDIR /app
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "workers"]
