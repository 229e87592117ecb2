# pivot-jax for Cloud TPUs, for `pivot-jax launch --to gke`, `--to tpu` and `--to skypilot`. From the root of a clone:
#
#   docker build --file launch/docker/tpu.Dockerfile --tag REGISTRY/pivot-jax:tpu .
FROM python:3.12-slim

# As in cuda.Dockerfile.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        tini build-essential openssh-server rsync sudo curl ca-certificates procps fuse3 \
    && rm -rf /var/lib/apt/lists/*

ENV PYTHONUNBUFFERED=1

COPY . /opt/pivot-jax
RUN pip install --no-cache-dir "/opt/pivot-jax[tpu]"

ENTRYPOINT ["tini", "--", "pivot-jax"]
CMD ["--help"]
