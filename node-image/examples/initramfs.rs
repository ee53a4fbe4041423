//! Builds the initramfs of a tree: `initramfs ROOT STAGE1 OUT`.
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let root = tesela_node_image::rooted::Rooted::open(a[1].as_ref()).unwrap();
    let kernel = tesela_node_image::kernel::find(&root).unwrap();
    println!("{kernel:?}");
    let t = std::time::Instant::now();
    let out = tesela_node_image::initramfs::build(&root, &kernel, a[2].as_ref()).unwrap();
    println!("{} bytes in {:?}", out.len(), t.elapsed());
    std::fs::write(&a[3], out).unwrap();
}
