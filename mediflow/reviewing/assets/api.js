// Every request goes to this server, below the token that stands in the address.

const base = `${location.pathname.replace(/[^/]*$/, "")}api/`;

async function read(response) {
  const values = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error(values.error);
  return values;
}

async function ask(path, options) {
  try {
    return await read(await fetch(base + path, options));
  } catch (error) {
    if (error instanceof TypeError) throw new Error("The server does not answer. Is it still running? Nothing that was shown as saved is lost.");
    throw error;
  }
}

export const get = (path, values) => {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values || {})) {
    for (const one of [value].flat()) if (one !== "" && one !== null && one !== undefined && one !== false) query.append(name, one);
  }
  return ask(`${path}?${query}`);
};
export const post = (path, values) => ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(values) });
