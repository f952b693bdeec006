"""The card that everybody makes tokens of: eleven fields, published test data."""

CARD = {
    "number": "4242424242424242",
    "exp_month": "12",
    "exp_year": "2034",
    "name": "Jenny Rosen",
    "address_line1": "123 Main Street",
    "address_line2": "Apartment 4",
    "address_city": "Springfield",
    "address_state": "IL",
    "address_zip": "62704",
    "address_country": "US",
    "currency": "usd",
}
