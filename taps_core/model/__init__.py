"""Pure values: properties, endpoints, security parameters, Messages, capabilities, errors."""
