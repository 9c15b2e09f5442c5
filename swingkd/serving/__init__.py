"""A teacher that answers others over HTTP: what may be served, to whom, how often, and the server itself."""

from swingkd.serving.answers import Answer, ServedTeacher
from swingkd.serving.app import create_app
from swingkd.serving.clients import Clients

__all__ = ["Answer", "Clients", "ServedTeacher", "create_app"]
