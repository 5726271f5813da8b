// Command sallyport issues identities, checks them in front of services, and
// proves afterwards who called what.
package main

func main() {}
