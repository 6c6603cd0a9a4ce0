//! As much of HTTP/1.1 as an S3 client needs.

use sitefs_base::{Clock, SystemClock};
use std::{
    io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write},
    net::TcpStream,
    time::Duration,
};

/// The longest head, and the largest body.
const HEAD_MAX: usize = 64 << 10;
const BODY_MAX: usize = 64 << 20;
/// How long the store behind may take.
const BEHIND: Duration = Duration::from_secs(60);

type Headers = Vec<(String, String)>;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// The length that a HEAD tells.
    pub len: Option<usize>,
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Reads up to the empty line: the first line and the headers.
fn head(reader: &mut impl BufRead) -> Result<Option<(String, Headers)>> {
    let mut lines: Vec<String> = Vec::new();
    let mut len = 0;
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line)?;
        len += read;
        if read == 0 && lines.is_empty() {
            return Ok(None);
        }
        if read == 0 || len > HEAD_MAX {
            return Err(broken("no end of the head"));
        }
        match line.trim_end() {
            "" if lines.is_empty() => {}
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.iter().skip(1).filter_map(header).collect();
    Ok(Some((lines.swap_remove(0), headers)))
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

fn body(reader: &mut impl BufRead, len: Option<usize>, chunked: bool) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match len {
        Some(len) if len > BODY_MAX => return Err(broken("a body that is too large")),
        Some(len) => {
            bytes.resize(len, 0);
            reader.read_exact(&mut bytes)?;
        }
        None if chunked => loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let len = usize::from_str_radix(line.trim(), 16).map_err(|_| broken("a chunk without length"))?;
            let from = bytes.len();
            bytes.resize(from + len, 0);
            reader.read_exact(&mut bytes[from..])?;
            reader.read_line(&mut line)?;
            if len == 0 {
                break;
            }
        },
        None => {}
    }
    Ok(bytes)
}

impl Request {
    /// The next request of a connection.
    pub fn read(reader: &mut BufReader<&TcpStream>, mut stream: &TcpStream) -> Result<Option<Self>> {
        let Some((line, headers)) = head(reader)? else { return Ok(None) };
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(broken("no request line"));
        };
        if find(&headers, "expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let len = find(&headers, "content-length").and_then(|len| len.parse().ok());
        let chunked = find(&headers, "transfer-encoding").is_some();
        let body = body(reader, len, chunked)?;
        Ok(Some(Self { method, target, headers, body }))
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The path, decoded.
    pub fn path(&self) -> String {
        decode(self.target.split('?').next().unwrap_or_default())
    }

    /// A parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(own, _)| *own == name).map(|(_, value)| decode(value))
    }

    /// Whether it asks for a listing.
    pub fn is_listing(&self) -> bool {
        self.method == "GET" && self.query("list-type").is_some()
    }

    /// Whose signature it has.
    pub fn access_key(&self) -> Option<String> {
        let of_header =
            || self.header("authorization")?.split_once("Credential=").map(|(_, rest)| rest.to_owned());
        let credential = self.query("X-Amz-Credential").or_else(of_header)?;
        credential.split('/').next().map(str::to_owned)
    }

    /// When it was signed, in seconds.
    pub fn signed_at(&self) -> Option<i64> {
        let text = self.query("X-Amz-Date").or_else(|| self.header("x-amz-date").map(str::to_owned))?;
        seconds_of(&text)
    }

    /// Asks the store at `target`.
    pub fn forward(&self, target: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BEHIND))?;
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            if !["connection", "expect", "transfer-encoding"].contains(&name.as_str()) {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        text.push_str("connection: close\r\n\r\n");
        stream.write_all(text.as_bytes())?;
        stream.write_all(&self.body)?;
        let mut reader = BufReader::with_capacity(256 << 10, &stream);
        loop {
            let (line, headers) = head(&mut reader)?.ok_or_else(|| broken("no answer"))?;
            let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
            let status: u16 = status.ok_or_else(|| broken("no status"))?;
            if status == 100 {
                continue;
            }
            let len = find(&headers, "content-length").and_then(|len| len.parse().ok());
            let chunked = find(&headers, "transfer-encoding").is_some();
            let has_body = self.method != "HEAD" && status != 204 && status != 304;
            let mut bytes = if has_body { body(&mut reader, len, chunked)? } else { Vec::new() };
            if has_body && len.is_none() && !chunked {
                reader.read_to_end(&mut bytes)?;
            }
            let own = ["content-length", "transfer-encoding", "connection"];
            let headers = headers.into_iter().filter(|(name, _)| !own.contains(&name.as_str())).collect();
            return Ok(Answer { status, headers, body: bytes, len: len.filter(|_| !has_body) });
        }
    }
}

impl Answer {
    /// Without a body.
    pub fn empty(status: u16) -> Self {
        Self::of(status, Vec::new())
    }

    /// With a body.
    pub fn of(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body, len: None }
    }

    /// An error as S3 writes them.
    pub fn error(status: u16, code: &str) -> Self {
        let xml =
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>it is so</Message></Error>");
        Self::of(status, xml.into_bytes())
    }

    /// A listing with these entries.
    pub fn listing(entries: &str, more: bool) -> Self {
        let xml = format!(
            "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Name>b</Name><IsTruncated>{more}</IsTruncated>{entries}</ListBucketResult>"
        );
        Self::of(200, xml.into_bytes())
    }

    fn head(&self, request: &Request) -> String {
        let mut text = format!("HTTP/1.1 {} X\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let len = if request.method == "HEAD" { self.len.unwrap_or(0) } else { self.body.len() };
        if self.status != 204 {
            text.push_str(&format!("content-length: {len}\r\n"));
        }
        text.push_str("x-amz-request-id: 1\r\n\r\n");
        text
    }

    /// Sends it.
    pub fn write(&self, request: &Request, mut stream: &TcpStream) -> Result<()> {
        stream.write_all(self.head(request).as_bytes())?;
        if request.method != "HEAD" {
            stream.write_all(&self.body)?;
        }
        stream.flush()
    }

    /// Sends it with half of the body.
    pub fn write_half(&self, request: &Request, mut stream: &TcpStream) -> Result<()> {
        stream.write_all(self.head(request).as_bytes())?;
        stream.write_all(&self.body[..self.body.len() / 2])?;
        stream.flush()
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The time, in seconds.
pub fn now() -> i64 {
    SystemClock.now().secs()
}

/// Days since 1970 of a date, and back (Howard Hinnant's algorithms).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + shifted.div_euclid(146_097) * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// `20261126T155838Z`.
fn seconds_of(text: &str) -> Option<i64> {
    let number = |from: usize, len: usize| text.get(from..from + len)?.parse::<i64>().ok();
    let days = days_of(number(0, 4)?, number(4, 2)?, number(6, 2)?);
    Some(days * 86_400 + number(9, 2)? * 3600 + number(11, 2)? * 60 + number(13, 2)?)
}

/// As the header `Date` has it.
pub fn date(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date_of(days);
    let at = |list: &[&'static str], index: i64| list[usize::try_from(index).unwrap_or(0)];
    let (weekday, month) = (at(&DAYS, days.rem_euclid(7)), at(&MONTHS, month - 1));
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_both_ways() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(seconds_of("19941106T084937Z"), Some(784_111_777));
        assert_eq!(seconds_of("20240229T000000Z").map(date).unwrap(), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(decode("b%2F7/%41b%"), "b/7/Ab%");
    }
}
