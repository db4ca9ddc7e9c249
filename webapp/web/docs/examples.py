"""The quick start in four languages of programs; the words in them are the same in every language of people."""

from __future__ import annotations

from dataclasses import dataclass

QUESTION = "Why do birds sit on wires?"
OPEN_KEY = "none"
YOUR_TOKEN = "YOUR_TOKEN"


@dataclass(frozen=True)
class Example:
    key: str
    title: str
    code: str


def examples(address: str, model: str, has_token: bool) -> tuple[Example, ...]:
    key = YOUR_TOKEN if has_token else OPEN_KEY
    header = f"  -H 'Authorization: Bearer {key}' \\\n" if has_token else ""
    return (
        Example("curl", "curl", CURL.format(address=address, model=model, header=header, question=QUESTION)),
        Example("python", "Python", PYTHON.format(address=address, model=model, key=key, question=QUESTION)),
        Example(
            "javascript", "JavaScript", JAVASCRIPT.format(address=address, model=model, key=key, question=QUESTION)
        ),
        Example("anthropic", "Anthropic", ANTHROPIC.format(address=address, model=model, key=key, question=QUESTION)),
    )


CURL = """curl {address}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
{header}  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}], "stream": true}}'"""

PYTHON = """# pip install openai
from openai import OpenAI

client = OpenAI(base_url="{address}/v1", api_key="{key}")
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{question}"}}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)"""

JAVASCRIPT = """// npm install openai
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{address}/v1", apiKey: "{key}" }});
const stream = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "{question}" }}],
  stream: true,
}});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");"""

ANTHROPIC = """# pip install anthropic
from anthropic import Anthropic

client = Anthropic(base_url="{address}", api_key="{key}")
message = client.messages.create(
    model="{model}",
    max_tokens=300,
    messages=[{{"role": "user", "content": "{question}"}}],
)
print(message.content[-1].text)"""
