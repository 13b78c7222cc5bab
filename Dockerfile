# One image for every process of ours: the role is the command, the environment tells the rest. Plain instructions only,
# so that the classic builder takes it as well as BuildKit.
FROM python:3.11-slim-bookworm

# The lock also holds the tools that check the engine. One lock that is tested beats a second one that is smaller.
COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes -r /tmp/requirements.lock \
    && rm /tmp/requirements.lock

# By number, so that an orchestrator can see that it is not root. The directories that are written to belong to it, and
# a new volume takes its owner from there.
RUN groupadd --gid 10001 flash \
    && useradd --uid 10001 --gid flash --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin flash \
    && install -d -o flash -g flash -m 0700 /var/lib/flashsale /run/flashsale

WORKDIR /app
COPY . .
# Readable whatever umask the clone was made under, and compiled, because the file system is read-only when it runs.
RUN chmod -R a+rX . && install -m 0755 deploy/ready deploy/start /usr/local/bin/ && python -m compileall -q .

ENV PYTHONPATH=/app/src:/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["start"]
