(() => {
  const list = document.getElementById("all-answers");
  if (!list) return;
  const words = document.getElementById("filter-text");
  const group = document.getElementById("filter-group");
  const shown = document.getElementById("filter-count");
  const cards = [...list.querySelectorAll(".comparison")];
  const apply = () => {
    const wanted = words.value.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      const fits = (!group.value || card.dataset.group === group.value) && card.textContent.toLowerCase().includes(wanted);
      card.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${cards.length} shown`;
  };
  words.addEventListener("input", apply);
  group.addEventListener("change", apply);
  document.getElementById("filter").hidden = false;
  apply();
})();
