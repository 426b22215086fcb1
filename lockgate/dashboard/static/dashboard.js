// What the pages do beyond forms and links: the theme, live updates, keys of the review, the slider.

const THEMES = ["system", "light", "dark"];

function setUpTheme() {
  const button = document.getElementById("theme");
  if (!button) return;
  const root = document.documentElement;
  const show = () => { button.textContent = `Theme: ${root.dataset.theme ?? "system"}`; };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
    if (next === "system") {
      delete root.dataset.theme;
      localStorage.removeItem("lockgate-theme");
    } else {
      root.dataset.theme = next;
      localStorage.setItem("lockgate-theme", next);
    }
    show();
  });
  show();
}

function setUpUpdates() {
  const box = document.getElementById("updates");
  const live = document.getElementById("live");
  if (!box || !live) return;
  live.addEventListener("htmx:beforeRequest", (event) => {
    if (!box.checked || document.hidden) event.preventDefault();
  });
}

function setUpKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const button = document.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!button || button.disabled) return;
    event.preventDefault();
    button.click();
  });
}

function setUpForms() {
  document.addEventListener("submit", (event) => {
    const words = event.target.dataset.confirm;
    if (words && !window.confirm(words)) {
      event.preventDefault();
      return;
    }
    // A second press must not send a verdict about the next exchange.
    if (event.target.method === "post") {
      if (event.target.dataset.sent) event.preventDefault();
      event.target.dataset.sent = "yes";
    }
  });
}

function setUpSlider() {
  const slide = document.getElementById("slide");
  const field = document.getElementById("threshold");
  if (!slide || !field) return;
  slide.addEventListener("input", () => { field.value = slide.value; });
  field.addEventListener("input", () => { slide.value = field.value; });
}

setUpTheme();
setUpUpdates();
setUpKeys();
setUpForms();
setUpSlider();
