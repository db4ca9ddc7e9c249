"""A manager with scripted answers, for one run of the tool bench at a time."""

import json

from tests.services.scripted_manager import ScriptedManager
from webapp.manager.handles import Service

STARTER = Service("starter.pth", "cpu fp32")


class BenchManager(ScriptedManager):
    """``services`` are the texts of the answers in turn; the last one is repeated."""

    def __init__(self, tokenizer, *scripts, services=(STARTER,)):
        super().__init__(tokenizer, *scripts)
        self._services = list(services)

    def submit(self, request, made_for=None, state=None):
        handle = super().submit(request, made_for, state)
        handle.service = self._services.pop(0) if len(self._services) > 1 else self._services[0]
        handle.request_id = request.request_id
        return handle


WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
TIME = {"name": "get_time", "description": "The time", "parameters": {"type": "object", "properties": {}}}


def call(name, **arguments):
    return " ```json\n" + json.dumps({"name": name, "arguments": arguments}) + "\n```"
