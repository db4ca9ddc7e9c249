// A dropped or chosen file is uploaded immediately; without scripts, with a button.
document.querySelector("form[data-auto] input[type=file]")?.addEventListener("change", (event) => {
  if (event.target.files.length) event.target.form.requestSubmit();
});

// A state that is created while the page is open is added to the list.
const countDone = () => document.querySelectorAll("#jobs [data-status=done]").length;
let done = countDone();
document.body.addEventListener("htmx:afterSwap", () => {
  const before = done;
  done = countDone();
  if (done <= before) return;
  htmx.ajax("GET", location.pathname, { source: "#here", target: "#here", select: "#here", swap: "outerHTML" });
});
