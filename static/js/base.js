// Where Roost stands on its host: "" or, behind a proxy, a path such as "/roost".
export const at = (path) => (document.documentElement.dataset.base ?? "") + path;

// An answer that comes as lines of JSON, value by value.
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
