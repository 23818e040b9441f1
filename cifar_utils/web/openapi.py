"""What the API takes and gives, as OpenAPI 3.1."""

from typing import Any

from cifar_utils import pictures
from cifar_utils.archives import CLASS_NAMES


def _content(schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answers(good: dict[str, Any]) -> dict[str, Any]:
    errors = {
        "400": "A parameter is wrong; the message says what was expected.",
        "413": "The request is too large.",
        "422": "The picture cannot be read; the message says why.",
        "429": "This client has sent too many pictures; Retry-After says when to come again.",
        "503": "Too busy; Retry-After says when to come again.",
    }
    answers = {
        status: {"description": text, **_content(_reference("Error"))}
        for status, text in errors.items()
    }
    return {"200": {"description": "Done.", **good}, **answers}


def _form(field: str, many: bool) -> dict[str, Any]:
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    given = {"type": "array", "items": file} if many else file
    form = {"type": "object", "properties": {field: given}, "required": [field]}
    bodies = _content(form, "multipart/form-data")["content"]
    if not many:
        bodies |= _content(file, "image/*")["content"]
    return {"required": True, "content": bodies}


def describe(most: int, version: str) -> dict[str, Any]:
    """Return the description of the API.

    Args:
        most: Pictures that one request may have.
        version: Of the library.
    """
    asked = [
        {
            "name": "model",
            "in": "query",
            "description": "One of /api/models; the first of them if none is named.",
            "schema": {"type": "string"},
        },
        {
            "name": "fit",
            "in": "query",
            "description": "What to do with pictures that are not square.",
            "schema": {"type": "string", "enum": list(pictures.FITS), "default": "crop"},
        },
    ]
    prediction = {
        "type": "object",
        "properties": {
            "label": {
                "type": ["string", "null"],
                "enum": [*CLASS_NAMES, None],
                "description": "The class; null if it looks like none of them.",
            },
            "nearest": {"type": "string", "enum": list(CLASS_NAMES)},
            "confidence": {"type": "number", "description": "Probability of nearest."},
            "calibrated": {"type": "boolean", "description": "Whether a temperature was fitted."},
            "known": {"type": "boolean"},
            "why": {"type": "string", "description": "What decided whether it is known."},
            "top": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string"},
                        "probability": {"type": "number"},
                    },
                },
            },
            "picture": {
                "type": "object",
                "properties": {
                    "width": {"type": "integer"},
                    "height": {"type": "integer"},
                    "format": {"type": "string"},
                    "notes": {"type": "array", "items": {"type": "string"}},
                },
            },
            "fit": {"type": "string", "enum": list(pictures.FITS)},
            "seen": {"type": "string", "description": "What the model saw, as a data address."},
            "model": {"type": "string"},
            "name": {"type": "string", "description": "Of the file, as it was sent."},
        },
    }
    one = {
        "summary": "Say what is on one picture",
        "parameters": asked,
        "requestBody": _form("picture", many=False),
        "responses": _answers(_content(_reference("Prediction"))),
    }
    many = {
        "summary": f"Say what is on several pictures, at most {most}",
        "description": "A picture that cannot be read has an error in its place.",
        "parameters": asked,
        "requestBody": _form("pictures", many=True),
        "responses": _answers(
            _content(
                {
                    "type": "object",
                    "properties": {
                        "results": {
                            "type": "array",
                            "items": {"anyOf": [_reference("Prediction"), _reference("Error")]},
                        }
                    },
                }
            )
        ),
    }
    explained = {
        "summary": "Say where the model looks",
        "parameters": asked,
        "requestBody": _form("picture", many=False),
        "responses": _answers(
            _content(
                {
                    "type": "object",
                    "properties": {"method": {"type": "string"}, "overlay": {"type": "string"}},
                }
            )
        ),
    }

    def plain(summary: str, kind: str = "application/json") -> dict[str, Any]:
        good = {"description": "Done.", **_content({}, kind)}
        return {"get": {"summary": summary, "responses": {"200": good}}}

    card = plain("Give the card of a model", "text/plain")
    card["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CIFAR-10 classifier",
            "version": version,
            "description": "Pictures in, classes out. Nothing that is sent is kept.",
        },
        "paths": {
            "/api/predict": {"post": one},
            "/api/predict/many": {"post": many},
            "/api/explain": {"post": explained},
            "/api/models": plain("List the models"),
            "/api/models/{name}/card": card,
            "/healthz": plain("Say whether the server lives"),
            "/readyz": plain("Say whether it can take more: 200, or 503 while it is too busy"),
            "/metrics": plain("Numbers for Prometheus", "text/plain"),
        },
        "components": {
            "schemas": {
                "Prediction": prediction,
                "Error": {"type": "object", "properties": {"error": {"type": "string"}}},
            }
        },
    }
