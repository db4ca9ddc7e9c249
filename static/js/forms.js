// Forms that are saved as a whole: sliders and numbers are linked, dots show what differs from the default, and unsaved
// changes are not lost by leaving. Forms with `data-form`; see templates/_controls.html for their rows. `roost:dirty`
// on the form has the names of changed fields.

const fieldOf = (row) => row.querySelector("[name]:not([type=hidden])");

function valueOf(row) {
  const field = fieldOf(row);
  if (row.querySelector(".checks")) return [...row.querySelectorAll(":checked")].map((one) => one.value).join("\n");
  if (field.type === "checkbox") return field.checked ? "1" : "0";
  if (field.type === "radio") return row.querySelector(":checked")?.value ?? "";
  return field.value;
}

function isSame(row, one, other) {
  return row.matches(".knob") ? Number(one) === Number(other) && one !== "" : one.trim() === other.trim();
}

function paint(row) {
  const range = row.querySelector("input[type=range]");
  if (range) {
    range.value = valueOf(row);
    range.style.setProperty("--filled", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);
  }
  row.classList.toggle("is-changed", !isSame(row, valueOf(row), row.dataset.default));
}

function set(row, value) {
  const field = fieldOf(row);
  if (row.querySelector(".checks")) {
    for (const one of row.querySelectorAll("[type=checkbox]")) one.checked = value.split("\n").includes(one.value);
  } else if (field.type === "checkbox") field.checked = value === "1";
  else if (field.type === "radio") {
    for (const radio of row.querySelectorAll("[type=radio]")) radio.checked = radio.value === value;
  } else field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new Event("change", { bubbles: true }));
}

// Every name with its values: a checkbox sends "0" from a hidden field and, if checked, "1" after it.
function snapshot(form) {
  const data = new FormData(form);
  return Object.fromEntries([...new Set(data.keys())].map((name) => [name, data.getAll(name).join("\n")]));
}

function changedNames(before, now) {
  return [...new Set([...Object.keys(before), ...Object.keys(now)])].filter((name) => before[name] !== now[name]);
}

export function shownLabel(form, name) {
  const label = form.querySelector(`label[for="field-${name}"]`);
  return label?.firstChild?.textContent.trim() || name;
}

function watch(form) {
  const sent = form.cloneNode(true); // the user may have typed before this script was loaded
  sent.reset();
  const before = snapshot(sent);
  const isUnsaved = form.hasAttribute("data-unsaved");
  const check = () => {
    const changed = changedNames(before, snapshot(form));
    form.toggleAttribute("data-dirty", isUnsaved || changed.length > 0);
    form.dispatchEvent(new CustomEvent("roost:dirty", { detail: changed, bubbles: true }));
  };
  form.addEventListener("input", (event) => {
    const row = event.target.closest("[data-default]");
    if (row && event.target.type === "range") fieldOf(row).value = event.target.value;
    if (row) paint(row);
    event.target.closest(".form-row")?.classList.remove("has-error");
    check();
  });
  form.addEventListener("change", check);
  form.addEventListener("submit", () => form.removeAttribute("data-dirty"));
  form.addEventListener("click", (event) => {
    const dot = event.target.closest("[data-reset]");
    if (dot) set(dot.closest("[data-default]"), dot.dataset.reset);
  });
  // A part of the form that the server has rendered again.
  form.addEventListener("htmx:load", (event) => {
    for (const row of event.target.querySelectorAll("[data-default]")) paint(row);
    check();
  });
  form.toggleAttribute("data-dirty", isUnsaved);
}

for (const row of document.querySelectorAll("[data-form] [data-default]")) paint(row);
for (const form of document.querySelectorAll("[data-form]")) watch(form);
document.querySelector(".has-error [name]:not([type=hidden])")?.focus();

window.addEventListener("beforeunload", (event) => {
  if (document.querySelector("[data-form][data-dirty]")) event.preventDefault();
});
