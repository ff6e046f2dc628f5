# The package and everything that it needs, on a CPU or on NVIDIA GPUs; by default a container runs `make demo`.
#
#   docker build -t resnet_repro .                                        # for CPUs
#   docker build -t resnet_repro --build-arg TORCH=cuda .                 # for GPUs: PyTorch with the CUDA libraries
#   docker run --rm -v "$PWD/outputs:/work/outputs" resnet_repro          # add --gpus all for GPUs
#   docker run --rm -v "$PWD/outputs:/work/outputs" resnet_repro .venv/bin/resnet-repro train data=digits depth=56
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS tools
WORKDIR /work
# g++ compiles fused.c and what torch.compile generates, git tells the commit for each manifest
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock ./
RUN pip install --no-cache-dir "$(grep '^uv==' requirements.lock)"

FROM tools AS package
ARG TORCH=cpu
# Compile now: the bytecode that a command keeps is lost with its container.
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv make install TORCH=${TORCH}
CMD ["make", "demo"]
