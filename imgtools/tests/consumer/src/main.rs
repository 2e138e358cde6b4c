//! Uses the crate's public face, each feature by itself.

use imgtools::process::{Command, Signal};
use imgtools::tools::{Finder, ToolKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let output = Command::new("true").run_blocking()?.check()?;
    println!("{} {}", output.status, Signal::SIGTERM);
    let tool = Finder::new().find(ToolKind::Img)?;
    println!("{:?}", tool.version);

    #[cfg(feature = "img")]
    {
        let img = imgtools::img::QemuImg::new(tool);
        let info = img.info("disk.qcow2").run_blocking();
        println!("{:?}", info.map(|info| info.virtual_size));
        #[cfg(feature = "probe")]
        println!("{:?}", imgtools::probe::formats_blocking(&img)?);
    }
    #[cfg(feature = "io")]
    {
        let io = imgtools::io::QemuIo::new(Finder::new().find(ToolKind::Io)?);
        io.open("disk.qcow2").command("read 0 512").run_blocking()?;
    }
    #[cfg(feature = "qcow2")]
    println!("{:?}", imgtools::qcow2::Image::open("disk.qcow2")?);
    #[cfg(feature = "raw")]
    imgtools::raw::create_sparse("disk.img", 512)?;
    Ok(())
}
