// A file that was dropped or chosen goes up at once; without scripts, a button does.
document.querySelector("form[data-auto] input[type=file]")?.addEventListener("change", (event) => {
  if (event.target.files.length) event.target.form.requestSubmit();
});

// A state that is made while the page is open joins the list.
const countDone = () => document.querySelectorAll("#jobs [data-status=done]").length;
let done = countDone();
document.body.addEventListener("htmx:afterSwap", () => {
  const before = done;
  done = countDone();
  if (done <= before) return;
  htmx.ajax("GET", location.pathname, { source: "#here", target: "#here", select: "#here", swap: "outerHTML" });
});
