# linearsr in a container:
#
#   docker build -t linearsr .                                    for CPUs
#   docker build -t linearsr --build-arg EXTRAS=cuda13 .          for NVIDIA GPUs
#   docker build -t linearsr --build-arg EXTRAS=train,cuda13 .    to train there
#   docker build -t linearsr --build-arg EXTRAS=train,tpu .       to train on TPUs
#
#   docker run --rm -v "$PWD:/data" linearsr upscale photo.jpg -o photo_x4.png
#   docker run --rm --gpus all -v "$PWD:/data" linearsr upscale holiday/ -o holiday_x4/
#
# A training with data.workers also needs --shm-size, see docs/pods.md.
#
# cuda13 needs a driver of version 580 or newer, cuda12 one of 525 or newer. CUDA itself
# comes with jax; of the host only the driver is used.
FROM python:3.13-slim

ARG EXTRAS=""

COPY . /src
RUN pip install --no-cache-dir "/src${EXTRAS:+[$EXTRAS]}" && rm -r /src

# Results belong to whoever runs the container with --user; others may write to the cache
# of compiled programs, too.
ENV XDG_CACHE_HOME=/cache
RUN mkdir -m 1777 /cache
VOLUME /cache
WORKDIR /data

ENTRYPOINT ["linearsr"]
CMD ["--help"]
