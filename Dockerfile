# The page in a container. The models come from outside: mount a folder of runs at /artifacts.
#   docker build -t cifar-page .
#   docker run --rm -p 8000:8000 -v "$PWD/artifacts:/artifacts:ro" cifar-page
FROM python:3.13-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY cifar_utils cifar_utils
RUN pip install --no-cache-dir ".[serve]" && useradd --system page
USER page
ENV CIFAR_UTILS_ARTIFACTS_DIR=/artifacts PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz')"]
CMD ["cifar", "serve", "--host", "0.0.0.0"]
