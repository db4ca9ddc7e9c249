// What HTML or SVG in an answer draws, on demand: in a frame of an origin of its own, which reaches neither this page nor
// a network. The frame is an empty page with a policy of its own (/preview) that is told what to show.

export function togglePreview(button) {
  const block = button.closest("pre") ?? button.closest(".answer").querySelector("[data-channel=content]").parentElement;
  const isOpen = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) return block.nextElementSibling?.matches(".preview") && block.nextElementSibling.remove();
  const frame = document.createElement("iframe");
  frame.className = "preview";
  frame.title = document.body.dataset.tPreviewFrame;
  frame.setAttribute("sandbox", "allow-scripts");
  frame.src = "/preview";
  const text = block.matches("pre") ? block.querySelector("code").textContent : button.closest(".answer").querySelector("[data-source]").value;
  const show = (event) => {
    if (event.source !== frame.contentWindow || event.data !== "ready") return;
    removeEventListener("message", show);
    frame.contentWindow.postMessage(text, "*");
  };
  addEventListener("message", show);
  return block.after(frame);
}
