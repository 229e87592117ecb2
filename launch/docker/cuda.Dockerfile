# pivot-jax for NVIDIA GPUs, for `pivot-jax launch --to gke` and `--to skypilot`. From the root of a clone:
#
#   docker build --file launch/docker/cuda.Dockerfile --tag REGISTRY/pivot-jax:cuda .
#
# JAX's wheels bring CUDA's libraries; the driver is the machine's.
FROM python:3.12-slim

# tini passes SIGTERM on (process 1 would ignore it until pivot-jax has its own handler) and collects ended processes. A
# compiler is for packages without a wheel. The rest is for SkyPilot, which logs into the container.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        tini build-essential openssh-server rsync sudo curl ca-certificates procps fuse3 \
    && rm -rf /var/lib/apt/lists/*

# Where machines of GKE have the driver's libraries.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

COPY . /opt/pivot-jax
RUN pip install --no-cache-dir "/opt/pivot-jax[cuda]"

ENTRYPOINT ["tini", "--", "pivot-jax"]
CMD ["--help"]
