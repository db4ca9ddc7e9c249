// A preview of HTML, SVG or a Mermaid diagram in an answer, on demand: in a frame with a separate origin, without
// access to this page or a network. The frame is an empty page with its own policy (/preview), to which the content is
// sent.

import { at } from "./base.js";
import { sourceOf } from "./copy.js";

let mermaid; // the library's text: 2.5 MB, loaded with the first diagram

export function togglePreview(button) {
  const block = button.closest("pre") ?? button.closest(".answer").querySelector("[data-channel=content]").parentElement;
  const isOpen = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) return block.nextElementSibling?.matches(".preview") && block.nextElementSibling.remove();
  const frame = document.createElement("iframe");
  frame.className = "preview";
  frame.title = document.body.dataset.tPreviewFrame;
  frame.setAttribute("sandbox", "allow-scripts");
  frame.src = at("/preview");
  const code = block.matches("pre") && block.querySelector("code");
  const text = code ? code.textContent : sourceOf(button.closest(".answer"));
  const page = code && code.matches(".language-mermaid") ? diagramPage(text) : text;
  const show = async (event) => {
    if (event.source !== frame.contentWindow || event.data !== "ready") return;
    removeEventListener("message", show);
    frame.contentWindow?.postMessage(await page, "*");
  };
  addEventListener("message", show);
  return block.after(frame);
}

async function diagramPage(text) {
  mermaid ??= fetch(new URL("../vendor/mermaid.tiny.js", import.meta.url)).then((answer) => (answer.ok ? answer.text() : Promise.reject(answer)));
  const failed = document.body.dataset.tPreviewFailed;
  const asText = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");
  try {
    const library = (await mermaid).replaceAll("</script", "<\\/script");
    return `<!doctype html><meta charset="utf-8"><style>body { margin: 12px; font: 15px/1.5 sans-serif } svg { max-width: 100%; height: auto } pre { white-space: pre-wrap }</style>
<div id="drawn"></div><script>${library}</script><script>
mermaid.initialize({ startOnLoad: false, securityLevel: "strict", suppressErrorRendering: true });
mermaid.render("diagram", ${asText(text)}).then(({ svg }) => { drawn.innerHTML = svg; }, (error) => {
  const told = document.createElement("pre");
  told.textContent = ${asText(failed)} + "\\n\\n" + (error?.message ?? error);
  drawn.append(told);
});</script>`;
  } catch {
    mermaid = undefined;
    return `<!doctype html><meta charset="utf-8"><p>${failed}</p>`;
  }
}
