//! The S3 dialect: routing, authentication, bodies, errors, XML, and one file per operation.

pub mod op;
