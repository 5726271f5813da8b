"""What users of the released packages write: nothing in here knows of Sallyport.

The tests in the parent folder run it as `python3 client.py PROGRAM ARG...` and read the
last line that it prints.
"""

import inspect
import json
import os
import sys

import google.auth
import google.auth.transport.requests
import requests
from google.auth import compute_engine
from google.oauth2 import id_token

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
USERINFO = "https://www.googleapis.com/auth/userinfo.email"


def adc():
    credentials, project = google.auth.default(scopes=[CLOUD_PLATFORM, USERINFO])
    credentials.refresh(google.auth.transport.requests.Request())
    return {
        "Token": credentials.token,
        "Expiry": credentials.expiry.isoformat() + "Z",  # it is in UTC and does not say so
        "Values": {
            "client": type(credentials).__module__,
            "project": project,
            "email": credentials.service_account_email,
            "universe": getattr(credentials, "universe_domain", ""),
        },
    }


def fetch(audience):
    """An ID token, by a library that can: google-auth 1.20 or newer."""
    return {"Token": id_token.fetch_id_token(google.auth.transport.requests.Request(), audience)}


def ask(audience):
    """The same without the library's help."""
    answer = requests.get(
        "http://%s/computeMetadata/v1/instance/service-accounts/default/identity" % os.environ["GCE_METADATA_HOST"],
        params={"audience": audience},
        headers={"Metadata-Flavor": "Google"},
    )
    if answer.status_code != 200:
        raise RuntimeError(answer.text)  # says why, and the decision id
    return answer.text


def idtoken(audience):
    return {"Token": ask(audience)}


def call(audience, *urls):
    session = requests.Session()
    session.headers["Authorization"] = "Bearer " + ask(audience)
    answers = [session.get(url) for url in urls]
    return {"Calls": [{"Status": a.status_code, "Body": a.text} for a in answers]}


def verify(certs, audience, token):
    claims = id_token.verify_token(
        token, google.auth.transport.requests.Request(), audience=audience, certs_url=certs
    )
    return {"Values": {"subject": claims["sub"], "issuer": claims["iss"]}}


def lacks():
    """What this version of the library cannot do."""
    here = inspect.signature(compute_engine.IDTokenCredentials.__init__).parameters
    return {
        "Values": {
            "an ID token from the metadata server": str("use_metadata_identity_endpoint" not in here),
            "fetch_id_token": str(not hasattr(id_token, "fetch_id_token")),
            "verify_oauth2_token with other keys": str(
                "certs_url" not in inspect.signature(id_token.verify_oauth2_token).parameters
            ),
        }
    }


def main():
    name, args = sys.argv[1], sys.argv[2:]
    programs = {f.__name__: f for f in (adc, fetch, idtoken, call, verify, lacks)}
    try:
        print(json.dumps(programs[name](*args)))
    except Exception as problem:
        sys.exit("%s: %s" % (type(problem).__name__, problem))


main()
