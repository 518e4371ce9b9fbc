// Small helpers over the DOM. Text from outside enters the page as text only: `textContent`, never markup.

export const byId = (id) => document.getElementById(id);

/** Make an element. `props`: class, title, text, and attributes; children are nodes or strings. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** A name that someone else chose: isolated, so that its writing direction cannot disturb what stands around it. */
export const nameNode = (name) => el("bdi", { text: name });

/** Set text only when it differs, so that selections and screen readers are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `parent` mirror `items`, keeping the element of each key, so that focus and selection
 * survive an update. `create(item)` makes an element, `update(element, item)` fills it.
 */
export function reconcile(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (child) {
      old.delete(key);
    } else {
      child = create(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
}

/** Fill a definition list with `[term, text, title?]` rows. */
export function facts(list, rows) {
  const wanted = rows.flatMap(([term, value, title]) => [
    el("dt", { text: term }),
    el("dd", { text: value, title }),
  ]);
  const same =
    wanted.length === list.children.length &&
    wanted.every((node, index) => node.isEqualNode(list.children[index]));
  if (!same) list.replaceChildren(...wanted);
}
