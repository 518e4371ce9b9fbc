// Asking the node: answers as JSON, refusals as sentences.

const TIMEOUT_MS = 10000;
const COMMAND_MS = 35000;

/**
 * What the network or the node being gone throws; anything else is a bug of ours.
 * @param {unknown} error
 */
function isAway(error) {
  return error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError;
}

/**
 * GET. The status is 0 where nobody answers; the answer is null where it is no success.
 * @param {string} path
 * @returns {Promise<{status: number, answer: any}>}
 */
export async function ask(path) {
  let status = 0;
  try {
    const reply = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    status = reply.status;
    return { status, answer: reply.ok ? await reply.json() : null };
  } catch (error) {
    if (!isAway(error)) throw error;
    return { status, answer: null };
  }
}

/**
 * Carry out a command.
 * @param {string} name
 * @param {object} [given]
 * @returns {Promise<{answer: any, refusal: string | null}>} the sentence that says why not, or null
 */
export async function command(name, given = {}) {
  try {
    const reply = await fetch(`/api/v1/commands/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(given),
      signal: AbortSignal.timeout(COMMAND_MS),
    });
    const answer = await reply.json();
    return reply.ok ? { answer, refusal: null } : { answer: null, refusal: `${answer.error.message} ${answer.error.fix}` };
  } catch (error) {
    if (!isAway(error)) throw error;
    return { answer: null, refusal: "The node did not answer. Try again when the page is connected." };
  }
}
