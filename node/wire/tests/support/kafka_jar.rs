//! Kafka's own schemas and error codes, out of its client jar.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

const KAFKA: &str = "org.apache.kafka:kafka-clients:4.3.0";
const SLF4J: &str = "org.slf4j:slf4j-api:1.7.36";

const ERRORS_JAVA: &str = "
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.protocol.Errors;

public class PrintErrors {
    public static void main(String[] arguments) {
        for (Errors error : Errors.values())
            System.out.println(error.code() + \"\\t\" + error.name() + \"\\t\"
                + (error.exception() instanceof RetriableException));
    }
}
";

/// A folder with the schemas `*.json` of Kafka 4.3 and its error codes in `errors.tsv`.
///
/// `MERIDIAN_KAFKA_SCHEMAS` names it; otherwise it is `target/kafka-schemas`, filled by Maven the first time.
/// `None`, with the reason printed, where there is neither the folder nor a working Maven.
pub(crate) fn schemas() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        if let Some(folder) = env::var_os("MERIDIAN_KAFKA_SCHEMAS") {
            let folder = PathBuf::from(folder);
            assert!(
                folder.join("FetchRequest.json").exists(),
                "MERIDIAN_KAFKA_SCHEMAS={} must hold common/message/*.json of kafka-clients 4.3.0",
                folder.display()
            );
            return Some(folder);
        }
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let folder = target.join("kafka-schemas");
        if folder.join("errors.tsv").exists() {
            return Some(folder);
        }
        match fill(&target, &folder) {
            Ok(()) => Some(folder),
            Err(reason) => {
                eprintln!("SKIP: not held against Kafka's own schemas: {reason}");
                None
            }
        }
    });
    folder.clone()
}

fn fill(target: &Path, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(target).map_err(|error| error.to_string())?;
    let target = target.canonicalize().map_err(|error| error.to_string())?;
    let work = target.join("kafka-schemas.part");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(|error| error.to_string())?;
    for artifact in [KAFKA, SLF4J] {
        let output = format!("-DoutputDirectory={}", work.display());
        let artifact = format!("-Dartifact={artifact}");
        run(Command::new("mvn")
            .args(["-q", "-B", "dependency:copy", &artifact, &output])
            .current_dir(&work))?;
    }
    let jar = "kafka-clients-4.3.0.jar";
    run(Command::new("unzip")
        .args(["-q", "-o", jar, "common/message/*"])
        .current_dir(&work))
    .or_else(|_| {
        run(Command::new("jar")
            .args(["xf", jar, "common/message"])
            .current_dir(&work))
    })?;
    fs::write(work.join("PrintErrors.java"), ERRORS_JAVA).map_err(|error| error.to_string())?;
    let classes = format!("{jar}:slf4j-api-1.7.36.jar");
    let errors = run(Command::new("java")
        .args(["-cp", &classes, "PrintErrors.java"])
        .current_dir(&work))?;
    let messages = work.join("common/message");
    fs::write(messages.join("errors.tsv"), errors).map_err(|error| error.to_string())?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&messages, folder).map_err(|error| error.to_string())?;
    fs::remove_dir_all(&work).map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!(
            "{name} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}
