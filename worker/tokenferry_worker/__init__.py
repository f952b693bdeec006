"""The secret half: opens sealed requests, keeps to the rate, calls the endpoint, spends tokens."""
