// Sets the chosen theme before the page is painted.
(() => {
  const kept = localStorage.getItem("lockgate-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
