// Forms that are saved as a whole: sliders and numbers move together, dots show what differs from the default, what is
// not saved is not lost by leaving. A form takes part by `data-form`; see templates/_controls.html for its rows.

function valueOf(row) {
  const field = row.querySelector("[name]");
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
  const field = row.querySelector("[name]");
  if (field.type === "checkbox") field.checked = value === "1";
  else if (field.type === "radio") {
    for (const radio of row.querySelectorAll("[type=radio]")) radio.checked = radio.value === value;
  } else field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new Event("change", { bubbles: true }));
}

function snapshot(form) {
  return JSON.stringify([...new FormData(form)].filter(([name]) => !name.startsWith("_")));
}

function watch(form) {
  const before = form.hasAttribute("data-unsaved") ? "" : snapshot(form);
  const check = () => {
    const isDirty = snapshot(form) !== before;
    form.toggleAttribute("data-dirty", isDirty);
    form.dispatchEvent(new CustomEvent("roost:dirty", { detail: isDirty, bubbles: true }));
  };
  form.addEventListener("input", (event) => {
    const row = event.target.closest("[data-default]");
    if (row && event.target.type === "range") row.querySelector("[name]").value = event.target.value;
    if (row) paint(row);
    row?.classList.remove("has-error");
    check();
  });
  form.addEventListener("change", check);
  form.addEventListener("submit", () => form.removeAttribute("data-dirty"));
  form.addEventListener("click", (event) => {
    const dot = event.target.closest("[data-reset]");
    if (dot) set(dot.closest("[data-default]"), dot.dataset.reset);
  });
  document.body.addEventListener("htmx:afterSettle", check);
  if (form.hasAttribute("data-unsaved")) check();
}

for (const row of document.querySelectorAll("[data-form] [data-default]")) paint(row);
for (const form of document.querySelectorAll("[data-form]")) watch(form);
document.querySelector(".has-error [name]")?.focus();

window.addEventListener("beforeunload", (event) => {
  if (document.querySelector("[data-form][data-dirty]")) event.preventDefault();
});
