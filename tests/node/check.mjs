// node check.mjs URL: the official Node SDK creates, reads, attaches, replays and fails as against the real endpoint.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import Stripe from "stripe";

const url = new URL(process.argv[2] ?? "http://127.0.0.1:12111");
const address = { protocol: url.protocol.replace(":", ""), host: url.hostname, port: Number(url.port) };
const sdk = (key, maxNetworkRetries = 0) => new Stripe(key, { ...address, maxNetworkRetries, telemetry: false });
const stripe = sdk("sk_test_node");
const run = Date.now().toString(36);

const card = { number: "4242424242424242", exp_month: "12", exp_year: "2044", cvc: "123" };
const bank = {
  country: "US",
  currency: "usd",
  account_number: "000123456789",
  routing_number: "110000000",
  account_holder_name: "Jenny Rosen",
  account_holder_type: "individual",
};
const kinds = {
  card: { card },
  bank_account: { bank_account: bank },
  pii: { pii: { id_number: "000000000" } },
  account: { account: { business_type: "individual", tos_shown_and_accepted: true } },
  person: { person: { first_name: "Jane", dob: { day: 1, month: 1, year: 1901 } } },
  cvc_update: { cvc_update: { cvc: "123" } },
};
const token = async (kind, options) => (await stripe.tokens.create(kinds[kind], options)).id;

// What the SDK's declarations say of a resource: the fields that are always there, and which of them may be null.
const declared = (file, name) => {
  const text = readFileSync(new URL(`node_modules/stripe/esm/resources/${file}.d.ts`, import.meta.url), "utf8");
  const found = text.match(new RegExp(`^( *)(?:export )?interface ${name} \\{\\n([^]*?)^\\1\\}`, "m"));
  if (!found) return [];
  const fields = found[2].matchAll(new RegExp(`^ {${found[1].length + 4}}(\\w+)(\\??): (.+);$`, "gm"));
  return [...fields].map(([, field, optional, type]) => ({ field, optional: optional === "?", type }));
};
const differences = (file, name, body, path = name) =>
  declared(file, name).flatMap(({ field, optional, type }) => {
    const here = `${path}.${field}`;
    if (!(field in body)) return optional ? [] : [`${here} is missing`];
    if (body[field] === null) return optional || type.includes("null") ? [] : [`${here} is null`];
    const inner = type.match(/^(?:\w+\.)+(\w+)(?: \| null)?$/);
    return inner && typeof body[field] === "object" ? differences(file, inner[1], body[field], here) : [];
  });

const checks = {
  async "every kind is created, read and replayed"() {
    for (const [kind, parameters] of Object.entries(kinds)) {
      const options = { idempotencyKey: `node-${run}-${kind}` };
      const made = await stripe.tokens.create(parameters, options);
      assert.equal(made.type, kind);
      assert.equal(made.used, false);
      assert.equal((await stripe.tokens.retrieve(made.id)).id, made.id);
      const again = await stripe.tokens.create(parameters, options);
      assert.equal(again.id, made.id);
      assert.equal(again.lastResponse.headers["idempotent-replayed"], "true");
      assert.notEqual(again.lastResponse.requestId, made.lastResponse.requestId);
    }
  },

  async "cards and bank accounts are attached to customers"() {
    const customer = await stripe.customers.create({ source: await token("card") });
    const source = await stripe.customers.createSource(customer.id, { source: await token("bank_account") });
    assert.equal(source.object, "bank_account");
    const method = await stripe.paymentMethods.create({ type: "card", card: { token: await token("card") } });
    assert.equal((await stripe.paymentMethods.attach(method.id, { customer: customer.id })).customer, customer.id);
  },

  async "a fresh CVC confirms a payment intent"() {
    const method = await stripe.paymentMethods.create({ type: "card", card: { token: await token("card") } });
    const intent = await stripe.paymentIntents.create({ amount: 100, currency: "usd", payment_method: method.id });
    const options = { payment_method_options: { card: { cvc_token: await token("cvc_update") } } };
    assert.equal((await stripe.paymentIntents.confirm(intent.id, options)).status, "succeeded");
  },

  async "connected accounts take account, bank, person and PII tokens"() {
    const account = await stripe.accounts.create({ type: "custom", account_token: await token("account") });
    const stripeAccount = account.id;
    const external_account = await token("bank_account", { stripeAccount });
    assert.equal((await stripe.accounts.createExternalAccount(account.id, { external_account })).account, account.id);
    const person = await stripe.accounts.createPerson(account.id, { person_token: await token("person") });
    assert.equal(person.first_name, "Jane");
    const pii = await token("pii");
    assert.equal((await stripe.accounts.updatePerson(account.id, person.id, { id_number: pii })).id_number_provided, true);
  },

  async "answers have every field that the SDK declares"() {
    const money = { amount: 100, currency: "usd" };
    const charge = await stripe.charges.create({ ...money, source: await token("card") });
    const customer = await stripe.customers.create({ source: await token("card") });
    const account = await stripe.accounts.create({ type: "custom", business_type: "individual" });
    const person = await stripe.accounts.createPerson(account.id, { first_name: "Jane" });
    const method = await stripe.paymentMethods.create({ type: "card", card: { token: await token("card") } });
    const intent = await stripe.paymentIntents.create({ ...money, payment_method: method.id, confirm: true });
    const source = await stripe.sources.create({ type: "card", token: await token("card") });
    const topup = await stripe.topups.create({ ...money, source: await token("bank_account") });
    const card = await stripe.tokens.create(kinds.card);
    const bankToken = await stripe.tokens.create(kinds.bank_account);
    const add = async (token) => stripe.accounts.createExternalAccount(account.id, { external_account: token });
    const added = await add(await token("bank_account"));
    const payout = { ...kinds.card.card, number: "4000056655665556", currency: "usd" };
    const debit = await add((await stripe.tokens.create({ card: payout })).id);
    const attached = await stripe.paymentMethods.attach(method.id, { customer: customer.id });
    const found = [
      ...differences("Charges", "Charge", charge),
      ...differences("Customers", "Customer", customer),
      ...differences("Accounts", "Account", account),
      ...differences("Persons", "Person", person),
      ...differences("PaymentMethods", "PaymentMethod", method),
      ...differences("PaymentIntents", "PaymentIntent", intent),
      ...differences("Sources", "Source", source),
      ...differences("Topups", "Topup", topup),
      ...differences("Tokens", "Token", card),
      ...differences("Cards", "Card", card.card),
      ...differences("BankAccounts", "BankAccount", bankToken.bank_account),
      ...differences("BankAccounts", "BankAccount", added),
      ...differences("Cards", "Card", debit),
      ...differences("Accounts", "Account", await stripe.accounts.update(account.id, { email: "a@example.com" })),
      ...differences("Persons", "Person", await stripe.accounts.updatePerson(account.id, person.id, { last_name: "D" })),
      ...differences("PaymentMethods", "PaymentMethod", attached),
    ];
    assert.deepEqual(found, []);
    assert.ok(differences("Charges", "Charge", {}).includes("Charge.disputed is missing"));
  },

  async "failures have their classes and codes"() {
    const used = await token("card");
    await stripe.customers.create({ source: used });
    const fails = (promise, type, code) => assert.rejects(promise, (error) => error.type === type && error.code === code);
    await fails(stripe.customers.create({ source: used }), "StripeInvalidRequestError", "token_already_used");
    await fails(stripe.customers.create({ source: "tok_none" }), "StripeInvalidRequestError", "resource_missing");
    const wrong = { card: { ...card, number: "4242424242424241" } };
    await fails(stripe.tokens.create(wrong), "StripeCardError", "incorrect_number");
    const declining = await stripe.tokens.create({ card: { ...card, number: "4000000000000002" } });
    await fails(stripe.customers.create({ source: declining.id }), "StripeCardError", "card_declined");
    await fails(sdk("sk_test_invalid").tokens.create(kinds.card), "StripeAuthenticationError", undefined);
    await fails(stripe.tokens.create(kinds.card, { stripeAccount: "acct_none" }), "StripePermissionError", "account_invalid");
    const options = { idempotencyKey: `node-${run}-other` };
    await stripe.tokens.create(kinds.pii, options);
    await fails(stripe.tokens.create(kinds.card, options), "StripeIdempotencyError", undefined);
  },

  async "a lost answer is found again by the SDK's own retry"() {
    const fault = { script: [{ kind: "reset_after", times: 1, path: "/v1/tokens" }] };
    await fetch(new URL("/_faults", url), { method: "POST", body: JSON.stringify(fault) });
    const options = { idempotencyKey: `node-${run}-lost` };
    const made = await sdk("sk_test_node", 2).tokens.create(kinds.card, options);
    const known = await (await fetch(new URL(`/_ledger/keys/${options.idempotencyKey}`, url))).json();
    assert.deepEqual(known.tokens, [made.id]);
  },
};

for (const [promise, check] of Object.entries(checks)) {
  await check();
  console.log(`ok ${promise}`);
}
