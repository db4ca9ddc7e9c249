// A file that was dropped or chosen goes up at once; without scripts, a button does.
document.querySelector("form[data-auto] input[type=file]")?.addEventListener("change", (event) => {
  if (event.target.files.length) event.target.form.requestSubmit();
});
