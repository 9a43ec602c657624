//! What an operation is: a route, a permission, and a function from a verified request to a response.

