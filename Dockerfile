FROM python:3.12-slim-bookworm

# TVM needs no compiler: it generates machine code by itself, and links it in memory. g++ is for --target cuda-sim, which
# compiles CUDA code for the CPU, and for the lab on deployment, which links. PACKAGES: what else to install, such as
# "qemu-user g++-aarch64-linux-gnu", with which that lab runs a model for AArch64.
ARG PACKAGES=""
RUN apt-get update && apt-get install --yes --no-install-recommends g++ $PACKAGES && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --root-user-action=ignore "uv>=0.9,<1"

# The environment lies outside /workspace, which the project folder is mounted over. Bytecode is compiled now, because
# whoever runs the container may not write there; in the mounted folder it would only be litter. UV_NO_SYNC: `uv run`
# in the container takes this environment as it is, and leaves the .venv of the host alone.
ENV VIRTUAL_ENV=/opt/venv UV_PROJECT_ENVIRONMENT=/opt/venv UV_NO_SYNC=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy \
    PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# An index that has CPU-only builds of torch makes the image several GB smaller. Only torch itself is taken from there,
# whatever its date: such an index tells none, and has old copies of other packages.
ARG TORCH_INDEX_URL=""
# Extras of pyproject.toml, such as "cuda".
ARG EXTRAS=""
WORKDIR /workspace
COPY pyproject.toml ./
# The package is installed as a link to /workspace; the empty one stands in for what will be mounted.
RUN mkdir tvm_practice && touch tvm_practice/__init__.py \
 && uv venv --no-cache /opt/venv \
 && if [ -n "$TORCH_INDEX_URL" ]; then \
        uv pip install --no-cache --compile-bytecode --no-deps --exclude-newer false \
            --default-index "$TORCH_INDEX_URL" torch; \
    fi \
 && uv pip install --no-cache --compile-bytecode --group dev --editable ".${EXTRAS:+[$EXTRAS]}"

# Run as the owner of the mounted folder, so that what is written there is theirs. Where that is root (or the engine is
# rootless, which shows it so), or where another user was asked for, nothing changes.
ENV HOME=/home/learner
RUN mkdir --mode=1777 $HOME
COPY --chmod=755 <<'EOF' /usr/local/bin/as-owner
#!/bin/sh
set -eu
case "${1:-}" in *sh) unset TVM_PRACTICE_COMMAND ;; esac # in a shell, commands are typed as they are
user=$(stat -c %u /workspace) group=$(stat -c %g /workspace)
if [ "$(id -u)" = 0 ] && [ "$user" != 0 ]; then
    echo "learner:x:$user:$group::$HOME:/bin/bash" >> /etc/passwd
    export USER=learner
    exec setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
fi
exec "$@"
EOF
ENTRYPOINT ["as-owner"]
CMD ["python", "-m", "tvm_practice.main"]
