//! A function file: a function's spec and its name, as TOML or JSON.

use std::fmt;
use std::io::Read;
use std::path::Path;

use muster_client::api::FunctionSpec;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::failure::Failure;

/// Muster takes specs of 24 KiB at most; the rest is for comments.
const FILE_MAX: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct FunctionFile {
    pub(super) name: String,
    pub(super) spec: FunctionSpec,
}

/// Reads a function file; `-` is standard input, as TOML. Every mistake names the file, and the
/// field if it is one's. Where `image_follows` it may name neither image nor command.
pub(super) fn read(path: &Path, image_follows: bool) -> Result<FunctionFile, Failure> {
    let shown = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    let text = read_text(path).map_err(|e| Failure::Usage(format!("cannot read {shown}: {e}")))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    parse(&text, is_json, image_follows).map_err(|mistake| Failure::Usage(format!("in {shown}: {mistake}")))
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path)?)
    };
    let mut text = String::new();
    source.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX) {
        return Err(std::io::Error::other(format!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(text)
}

fn parse(text: &str, is_json: bool, image_follows: bool) -> Result<FunctionFile, String> {
    let file: FunctionFile = if is_json {
        let mut json = serde_json::Deserializer::from_str(text);
        let file = serde_path_to_error::deserialize(&mut json).map_err(mistake)?;
        json.end().map_err(|e| e.to_string())?;
        file
    } else {
        let toml = toml::Deserializer::parse(text).map_err(|e| e.to_string())?;
        serde_path_to_error::deserialize(toml).map_err(mistake)?
    };
    match (&file.spec.image, &file.spec.command) {
        (Some(_), Some(_)) => Err("give `image` or `command`, not both".to_owned()),
        (None, None) if !image_follows => Err("`image` or `command` is missing".to_owned()),
        _ => Ok(file),
    }
}

fn mistake(error: serde_path_to_error::Error<impl fmt::Display>) -> String {
    let field = error.path().to_string();
    let field = if field == "." { String::new() } else { format!("field `{field}`: ") };
    format!("{field}{}", error.inner())
}

impl<'de> Deserialize<'de> for FunctionFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = FunctionFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function's name and spec")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FunctionFile, A::Error> {
        let mut name = None;
        let spec =
            FunctionSpec::deserialize(MapAccessDeserializer::new(WithoutName { map, name: &mut name }))?;
        let name = name.ok_or_else(|| A::Error::missing_field("name"))?;
        Ok(FunctionFile { name, spec })
    }
}

/// Takes `name` out of a map, so that the rest can be a spec, which refuses fields it doesn't know.
struct WithoutName<'a, A> {
    map: A,
    name: &'a mut Option<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutName<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            if key != "name" {
                return seed.deserialize(StringDeserializer::new(key)).map(Some);
            }
            *self.name = Some(self.map.next_value()?);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_both_forms() {
        let toml = "name = 'a'\nimage = 'b'\n[env]\nname = 'c'\n[scaling]\nmax = 3\n";
        let json = r#"{"image":"b","scaling":{"max":3},"env":{"name":"c"},"name":"a"}"#;
        let (toml, json) = (parse(toml, false, false).unwrap(), parse(json, true, false).unwrap());
        assert_eq!((&toml.name, &toml.spec), (&json.name, &json.spec));
        assert_eq!((toml.name.as_str(), toml.spec.scaling.max, toml.spec.scaling.min), ("a", 3, 0));
        assert_eq!(toml.spec.env["name"], "c");
    }

    #[test]
    fn mistakes_name_the_field() {
        for (is_json, text, named) in [
            (false, "name = 'a'\nimage = 'b'\nmemory = 1", "`memory`"),
            (false, "name = 'a'\nimage = 'b'\nmemory_mb = 'lots'", "`memory_mb`"),
            (false, "name = 'a'\nimage = 'b'\nmemory_mb = -1", "`memory_mb`"),
            (false, "name = 'a'\nimage = 'b'\n[scaling]\nmaximum = 1", "`scaling.maximum`"),
            (false, "name = 'a'\nimage = 'b'\n[scaling]\nmax = 'x'", "`scaling.max`"),
            (false, "name = 'a'\nimage = 'b'\npayer = 'me'", "`payer`"),
            (false, "name = 1\nimage = 'b'", "`name`"),
            (false, "image = 'b'", "`name`"),
            (false, "name = 'a'", "`image`"),
            (false, "name = 'a'\nimage = 'b'\ncommand = ['c']", "`command`"),
            (false, "name = 'a'\nimage = ", "line 2"),
            (true, r#"{"name":"a","image":"b","queue":{"max_waiting":"x"}}"#, "`queue.max_waiting`"),
            (true, r#"{"name":"a","image":"b"} x"#, "line 1"),
            (true, "[]", "function"),
        ] {
            let mistake = parse(text, is_json, false).unwrap_err();
            assert!(mistake.contains(named), "{text}\n{mistake}");
        }
    }
}
