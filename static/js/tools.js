// The tool form: shows the fields of a behaviour; puts errors and the preview's JSON into their places.

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
  if (preview.dataset.json && json && !isTypedIn(json)) json.value = json.defaultValue = preview.dataset.json;
});

// The JSON follows the form (value and defaultValue together) until the user types in it; then it is left alone until
// the form is rendered from it. Otherwise an older preview would restore the old text, and the form would use that.
function isTypedIn(json) {
  return json.value !== json.defaultValue;
}

// The form is rendered again after a change of type and by its buttons. Text typed while the request is running would
// be lost with the old form, so such a response is ignored and the request repeated with the current form.
const sent = new WeakMap();
const written = (form) => {
  const own = isTypedIn(document.getElementById("tool-json"));
  return JSON.stringify([...new FormData(form)].filter(([name]) => own || name !== "json"));
};
const isRedraw = (event) => event.detail.target?.id === "tool-form";

document.addEventListener("htmx:beforeSend", (event) => {
  if (isRedraw(event)) sent.set(event.detail.xhr, written(event.detail.target));
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const before = sent.get(event.detail.xhr);
  if (!isRedraw(event) || before === undefined || before === written(event.detail.target)) return;
  event.detail.shouldSwap = false;
  const { elt, triggeringEvent } = event.detail.requestConfig;
  if (triggeringEvent?.type === "click") elt.click();
  else elt.dispatchEvent(new Event("change")); // not for the form, which would request its preview
});
