// Copying: the text of an answer as Markdown, the code of a block. Also works with plain http, which has no clipboard.

export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* permission refused: try the old way */ }
  }
  return copyBySelection(text);
}

export function copyBySelection(text) {
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  area.className = "unseen";
  area.readOnly = true;
  document.body.append(area);
  area.select();
  let done = false;
  try {
    done = document.execCommand("copy");
  } finally {
    area.remove();
    focused?.focus?.({ preventScroll: true });
  }
  return done;
}

export function sourceOf(message) {
  const source = message.querySelector("[data-source]");
  return source ? source.value ?? source.textContent : "";
}

export function say(button, done) {
  const words = document.body.dataset;
  const label = done ? words.tCopied : words.tCopyFailed;
  button.classList.toggle("is-done", done);
  button.dataset.said = label;
  const use = button.querySelector("use");
  const icon = use?.getAttribute("href");
  const title = button.getAttribute("aria-label");
  if (use && done) use.setAttribute("href", icon.replace(/#.*/, "#check"));
  if (title) button.setAttribute("aria-label", label);
  setTimeout(() => {
    button.classList.remove("is-done");
    delete button.dataset.said;
    if (use) use.setAttribute("href", icon);
    if (title) button.setAttribute("aria-label", title);
  }, 1500);
}

export function startCopying() {
  // CSS creates the label of code blocks from these, so that the rendered HTML is independent of the language.
  document.body.style.setProperty("--copy", JSON.stringify(document.body.dataset.tCopy));
  document.body.style.setProperty("--copied", JSON.stringify(document.body.dataset.tCopied));
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], .code-copy");
    if (!button || button.dataset.said) return;
    const text = button.matches(".code-copy")
      ? button.closest("pre").querySelector("code").textContent
      : sourceOf(button.closest(".answer, .message"));
    say(button, await copyText(text));
  });
}
