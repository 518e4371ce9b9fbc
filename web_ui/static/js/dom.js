// Small helpers over the DOM. Text from outside enters the page as text only: `textContent`, never markup.

/**
 * An element of the page, of which it is known what it is.
 * @param {string} id
 * @returns {any}
 */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. `props`: class, title, text, and attributes; children are nodes or strings.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | number | null | undefined>} [props]
 * @param {Array<Node | string>} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name === "text") node.textContent = String(value);
    else if (name === "class") node.className = String(value);
    else node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

/**
 * A name that someone else chose: isolated, so that its writing direction cannot disturb what stands around it.
 * @param {string} name
 */
export const nameNode = (name) => el("bdi", { text: name });

/**
 * Set text only when it differs, so that selections and screen readers are left in peace.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `parent` mirror `items`, keeping the element of each key, so that focus and selection
 * survive an update. `create(item)` makes an element, `update(element, item)` fills it.
 * @template T
 * @param {Element} parent
 * @param {Iterable<T>} items
 * @param {(item: T) => string | number} keyOf
 * @param {(item: T) => HTMLElement} create
 * @param {(element: any, item: T) => void} update
 */
export function reconcile(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (child) {
      old.delete(key);
    } else {
      const made = create(item);
      made.dataset.key = key;
      child = made;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
}

/**
 * Fill a definition list with `[term, text, title?]` rows.
 * @param {Element} list
 * @param {Array<[string, string, string?]>} rows
 */
export function facts(list, rows) {
  while (list.children.length > 2 * rows.length) list.lastElementChild?.remove();
  rows.forEach(([term, value, title], index) => {
    if (list.children.length < 2 * index + 2) list.append(el("dt"), el("dd"));
    const [dt, dd] = [list.children[2 * index], /** @type {HTMLElement} */ (list.children[2 * index + 1])];
    setText(dt, term);
    setText(dd, value);
    if (dd.title !== (title ?? "")) dd.title = title ?? "";
  });
}
