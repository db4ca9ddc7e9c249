// The tool form: what a behaviour needs is shown with it; errors and JSON of the preview go to their places.

document.addEventListener("change", (event) => {
  const shown = event.target.dataset?.shows;
  if (!shown) return;
  for (const part of document.querySelectorAll(".behaviour")) part.hidden = part.id !== shown;
});

document.addEventListener("htmx:afterSwap", () => {
  const preview = document.getElementById("tool-preview");
  if (!preview) return;
  for (const template of preview.querySelectorAll("template[data-error-of]")) {
    const row = document.querySelector(`[data-error="${CSS.escape(template.dataset.errorOf)}"]`);
    const text = template.content.textContent;
    row?.classList.toggle("has-error", Boolean(text));
    const place = row?.querySelector(":scope > .error-text");
    if (place) place.textContent = text;
  }
  const json = document.getElementById("tool-json");
  if (preview.dataset.json && json && json !== document.activeElement) json.value = preview.dataset.json;
});
