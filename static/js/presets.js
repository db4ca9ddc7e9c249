// The presets pages: renaming in a dialog, the effect of saving, and the other version's value in a conflict.

import { shownLabel } from "./forms.js";

// Renaming: without this, the link leads to the form's name.
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-rename]");
  const dialog = document.getElementById("rename-dialog");
  if (!link || !dialog) return;
  event.preventDefault();
  link.closest("[popover]")?.hidePopover();
  dialog.querySelector("[name=do]").value = `rename:${link.dataset.rename}`;
  dialog.querySelector("[name=name]").value = link.dataset.name;
  dialog.showModal();
  dialog.querySelector("[name=name]").select();
});

// A link to a folded part opens it; a chosen or dropped file is imported immediately.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) document.getElementById(opener.dataset.open).querySelector("details").open = true;
});
document.getElementById("import-file")?.addEventListener("change", (event) => {
  if (event.target.files.length) event.target.form.requestSubmit(event.target.form.querySelector("[value=import]"));
});

const form = document.getElementById("preset");

// What Save will do with the changed fields.
const isReload = (name) => name === "strategy" || Boolean(form.querySelector(`[name="${name}"]`)?.closest(".form-row")?.querySelector(".reload-mark"));

function say(changed) {
  const words = form.dataset;
  const names = changed.map((name) => name.startsWith("build_") ? "strategy" : name).filter((name) => name !== "name" && name !== "note");
  const kinds = { atOnce: [], reload: [] };
  for (const name of new Set(names)) kinds[isReload(name) ? "reload" : "atOnce"].push(shownLabel(form, name));
  const isActive = words.active === "1";
  const text = document.getElementById("save-text");
  if (changed.length) text.textContent = sentences(words, kinds, isActive);
  text.classList.toggle("is-waiting", isActive && kinds.reload.length > 0);
  document.getElementById("save-and-use").hidden = isActive && !kinds.reload.length;
}

function sentences(words, kinds, isActive) {
  if (!isActive) return words.tInactive;
  const fill = (text, labels) => labels.length ? text.replace("{names}", labels.join(words.tComma)) : "";
  return [fill(words.tAtOnce, kinds.atOnce), fill(words.tReload, kinds.reload)].filter(Boolean).join(" ");
}

if (form) {
  form.addEventListener("roost:dirty", (event) => say(event.detail));
  document.getElementById("save-and-use").hidden = form.dataset.active === "1" && !form.hasAttribute("data-unsaved");

  // Keeps the scroll position after a save.
  const page = document.querySelector(".page");
  form.addEventListener("submit", () => sessionStorage.setItem("roost.preset.scroll", String(page.scrollTop)));
  const kept = sessionStorage.getItem("roost.preset.scroll");
  sessionStorage.removeItem("roost.preset.scroll");
  if (kept && new URLSearchParams(location.search).has("saved")) page.scrollTop = Number(kept);
  history.replaceState(null, "", location.pathname + location.hash);

  document.addEventListener("click", (event) => {
    const taking = event.target.closest("[data-take]");
    const field = taking && form.querySelector(`[name="${taking.dataset.take}"]:not([type=hidden])`);
    if (!field) return;
    if (field.type === "checkbox") field.checked = taking.dataset.value === "1";
    else field.value = taking.dataset.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
    taking.closest("tr").remove();
  });
}
