//! Throwaway.
#[tokio::main]
async fn main() {
    let data = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let config = control::Config { data, listen: "127.0.0.1:17700".parse().unwrap(), hosts: vec![] };
    if let Some(first) = control::initialise(&config).await.unwrap() {
        println!("key {}", first.api_key);
    }
    println!("bootstrap {}", control::bootstrap_token(&config, &"local".parse().unwrap()).await.unwrap());
    if let Err(error) = control::serve(config).await {
        println!("error {error}");
    }
    println!("ended");
}
