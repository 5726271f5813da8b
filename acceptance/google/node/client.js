// What users of the released packages write: nothing in here knows of Sallyport. The
// tests in the parent folder run it as `node client.js PROGRAM ARG...` and read the last
// line that it prints.
'use strict';

const cloudPlatform = 'https://www.googleapis.com/auth/cloud-platform';
const userinfo = 'https://www.googleapis.com/auth/userinfo.email';

// library is google-auth-library of a major version: 9, or 11, which has its own name.
const library = major => require(major === '9' ? 'google-auth-library-9' : 'google-auth-library');

const programs = {
  async metadata() {
    const metadata = require('gcp-metadata');
    if (!await metadata.isAvailable()) {
      return {Values: {available: 'false'}};
    }
    return {
      Values: {
        available: 'true',
        project: await metadata.project('project-id'),
        number: String(await metadata.project('numeric-project-id')),
        email: await metadata.instance({property: 'service-accounts/default/email'}),
        universe: await metadata.universe('universe-domain'),
      },
    };
  },

  async adc(major) {
    const auth = new (library(major).GoogleAuth)({scopes: [cloudPlatform, userinfo]});
    const client = await auth.getClient();
    return {
      Token: await auth.getAccessToken(),
      Values: {
        client: client.constructor.name,
        project: await auth.getProjectId(),
        email: (await auth.getCredentials()).client_email,
        universe: await auth.getUniverseDomain(),
      },
    };
  },

  async idtoken(major, audience) {
    const client = await new (library(major).GoogleAuth)().getIdTokenClient(audience);
    return {Token: await client.idTokenProvider.fetchIdToken(audience)};
  },

  // a whole service that calls another
  async call(major, audience, ...urls) {
    const client = await new (library(major).GoogleAuth)().getIdTokenClient(audience);
    const Calls = [];
    for (const url of urls) {
      const response = await client.request({url, responseType: 'text'});
      Calls.push({Status: response.status, Body: response.data});
    }
    return {Calls};
  },

  async verify(major, certs, issuer, audience, token) {
    const {OAuth2Client} = library(major);
    const client = new OAuth2Client({endpoints: {oauth2FederatedSignonPemCertsUrl: certs}, issuers: [issuer]});
    const ticket = await client.verifyIdToken({idToken: token, audience});
    return {Values: {subject: ticket.getPayload().sub}};
  },

  // the same with keys that it fetched itself
  async certs(major, certs, issuer, audience, token) {
    const map = await (await fetch(certs)).json();
    const client = new (library(major).OAuth2Client)();
    const ticket = await client.verifySignedJwtWithCertsAsync(token, map, audience, [issuer]);
    return {Values: {subject: ticket.getPayload().sub}};
  },

  async jose(discovery, issuer, audience, token) {
    const {createRemoteJWKSet, jwtVerify} = await import('jose');
    const {jwks_uri} = await (await fetch(discovery)).json();
    const {payload, protectedHeader} = await jwtVerify(token, createRemoteJWKSet(new URL(jwks_uri)), {issuer, audience, typ: 'JWT'});
    return {Values: {subject: payload.sub, algorithm: protectedHeader.alg}};
  },

  // a step of a workflow
  async actions(audience) {
    const {getIDToken} = await import('@actions/core');
    return {Token: await getIDToken(audience)};
  },
};

const [name, ...args] = process.argv.slice(2);
programs[name](...args).then(
  result => console.log(JSON.stringify(result)),
  error => {
    console.error(error.message, error.response?.data); // 9 has the answer only there
    process.exitCode = 1;
  },
);
