// Roost's path on its host: "" or, behind a proxy, for example "/roost".
export const at = (path) => (document.documentElement.dataset.base ?? "") + path;

// Reads a response that is streamed as lines of JSON, value by value.
export async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}
