package cli

// reasons say, for each reason code of a record, what is the matter and who can do what
// about it. TestEveryReasonIsExplained holds the list to the codes that there are.
func reasons() map[string]string {
	return map[string]string{
		"allowed":        "A rule allows it.",
		"no_match":       "No rule allows it, and what no rule allows is denied: whoever writes the policy can add one.",
		"denied_by_rule": "A deny rule is about it, and deny wins over every allow.",
		"deny_rule_error": "The condition of a deny rule could not be evaluated, which denies: whoever writes the policy has to make it read only what is always " +
			"there.",

		"credential_missing":   "The request has no credential: the caller has to send Authorization: Bearer TOKEN, once.",
		"credential_malformed": "The Authorization header is not one well-formed Bearer credential: the caller has to send exactly one.",
		"host_unknown":         "No service has the host name that was asked for: the caller has the wrong name, or services[].http.hosts lacks it.",
		"host_refused":         "The door was asked by another name than its address, as a rebound web page would: the caller has to use the address.",
		"method_not_allowed":   "The path does not take that method: the caller has to use another.",
		"path_not_canonical":   "The path can be read in two ways (dots, doubled slashes, encoded separators): the caller has to send the plain one.",
		"query_malformed":      "The query string is not well-formed: the caller has to encode it.",
		"header_malformed":     "A header field could be read in two ways: the caller has to send it once and well-formed.",
		"body_too_large":       "The request's body is larger than max_body of its route.",
		"rate_limited":         "There were more requests a second than services[].limits allow: the caller has to come back later.",
		"too_many_at_once":     "There were more requests and sessions under way than services[].limits allow: the caller has to come back later.",
		"no_room":              "The log's disk is nearly full, and what is left is for proven callers: make room, or raise audit.keep_free.",

		"revoked":          "The credential, or what it rests on, was revoked: `sallyport revoke list` shows by what, `revoke lift` takes it back.",
		"session_killed":   "An operator ended the session: the caller may begin another.",
		"max_session":      "The session lasted as long as services[].max_session allows: the caller may begin another.",
		"policy_changed":   "The rules, or the clock that they read, would refuse it now, and so it was ended.",
		"provider_changed": "The provider that vouched has another entry in the file: the caller has to prove itself again.",

		"metadata_flavor_missing": "The request lacks Metadata-Flavor: Google, which keeps web pages away from the door: the caller has to send it.",
		"request_was_forwarded":   "The request came through a proxy or a browser, which the door is not for: the caller has to ask it directly.",
		"parameter_not_accepted":  "A parameter of the request is wrong; the detail says which and what would be right.",
		"scope_not_held":          "The caller asks for a scope that its account has not: ask for less, or add it to the account.",
		"path_unknown":            "There is nothing at that path: the caller has to use another.",
		"no_descendant":           "The door of `sallyport run` was asked by a program that is no descendant of the one it is for.",
		"issuer_not_accepted":     "The token's issuer is none that this service takes tokens of: get a token from one that it does, or add the provider to services[].accept.",
		"service_unknown":         "There is no service of that name.",
		"account_unknown":         "The token, or the caller, names a service account that the file does not declare.",
		"shutting_down":           "The server was shutting down: the caller has to try again.",
		"prover_failed":           "The credential could not be checked for a reason of our own; the detail has it.",
		"email_reserved":          "A provider's token asserts an e-mail in our own accounts' name space: whoever runs the provider has to change that.",

		"no_account":            "The local caller is none of the accounts that this door gives: the detail has what the kernel says of it and the nearest attest entry.",
		"account_ambiguous":     "The local caller is several accounts on this door: it has to name one, or their attest entries have to differ.",
		"caller_unattested":     "The kernel could not say who is on the other end; the detail has why. A closed or foreign connection is nobody.",
		"caller_changed":        "The local caller was not the same before and after: it ran another program, or its socket changed hands.",
		"token_malformed":       "The token is not a well-formed JWT in compact form: the caller sends something else, or cut it.",
		"certificate_missing":   "No client certificate was shown.",
		"certificate_refused":   "The client certificate is none that this service takes: the detail has why. It has to be of providers[].x509.ca_file, for clients, with exactly one URI.",
		"issuer_unknown":        "The token's issuer is none that is configured: add it to providers, or get a token from one that is.",
		"type_not_allowed":      "The token is of a kind (typ) that is no bearer token for services, such as an assertion or an access token: get an ID token for the audience.",
		"key_unknown":           "The token was signed with a key that the issuer does not publish (any more): get a new token; if it is new, the issuer's keys are not the ones it signs with.",
		"keys_unavailable":      "The issuer's keys cannot be had now: see whether its key document can be reached from this server.",
		"signature_invalid":     "The signature does not fit the token: it was changed on its way, or forged.",
		"expiry_missing":        "The token has no exp: the issuer has to set one.",
		"token_not_yet_valid":   "The token's nbf or iat is more than a minute ahead: the clocks of issuer and server differ.",
		"token_expired":         "The token has expired: the caller has to get a new one; client libraries do so by themselves.",
		"subject_missing":       "The token has no sub: the issuer has to say who it is about.",
		"actor_not_served":      "The token was made for somebody who acts for another (act), whom policy cannot judge yet.",
		"sender_constrained":    "The token is bound to a key (cnf) and was shown without it: it is no plain bearer token.",
		"lifetime_too_long":     "The token is valid for longer than tokens may be (ours 65 minutes, providers' 24 hours): the issuer has to make shorter ones.",
		"audience_wrong":        "The token is for another audience: the caller has to get one for one of services[].audiences.",
		"algorithm_not_allowed": "The token is signed with an algorithm that is not allowed for this issuer: see providers[].oidc.algorithms.",
	}
}
