//! Errors as people see them in their browsers.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, StatusCode};

use crate::http::Refusal;
use crate::s3::error::S3Error;
use crate::s3::response::Response;
use crate::s3::xml::escaped;

const ERROR_CODE: HeaderName = HeaderName::from_static("x-amz-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-amz-error-message");

/// The page of an error; `second` is why the page of the website's owner cannot be shown instead.
pub fn of_error(error: &S3Error, second: Option<&S3Error>, request_id: &str, host_id: &str) -> Response {
    let mut list = items(error);
    list.push(("RequestId", request_id));
    list.push(("HostId", host_id));
    let second = second.map(items);
    let code = error.code();
    let mut response = page(code.status(), &list, second.as_deref());
    for (name, value) in error.headers() {
        response.headers.insert(name.clone(), value.clone());
    }
    told(response, error)
}

/// The page of a request that never became one.
pub fn of_refusal(refusal: &Refusal, request_id: &str, host_id: &str) -> Response {
    let list = [
        ("Code", refusal.code),
        ("Message", refusal.message),
        ("RequestId", request_id),
        ("HostId", host_id),
    ];
    page(refusal.status, &list, None)
}

/// An answer that tells of an error in its headers, too.
pub fn told(response: Response, error: &S3Error) -> Response {
    response.header(ERROR_CODE, error.code().name()).header(ERROR_MESSAGE, error.message())
}

fn items(error: &S3Error) -> Vec<(&'static str, &str)> {
    let mut list = vec![("Code", error.code().name()), ("Message", error.message())];
    list.extend(error.fields().iter().map(|(name, value)| (*name, value.as_str())));
    list
}

fn page(status: StatusCode, list: &[(&str, &str)], second: Option<&[(&str, &str)]>) -> Response {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    let mut text = format!("<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n");
    add_list(&mut text, list);
    if let Some(second) = second {
        text.push_str("<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>\n");
        add_list(&mut text, second);
    }
    text.push_str("<hr/>\n</body>\n</html>\n");
    Response::new(status)
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .bytes(Bytes::from(text))
}

fn add_list(text: &mut String, list: &[(&str, &str)]) {
    text.push_str("<ul>\n");
    for (name, value) in list {
        text.push_str(&format!("<li>{name}: {}</li>\n", escaped(value)));
    }
    text.push_str("</ul>\n");
}
