require "sinatra/base"
require "rack/mock"

class App < Sinatra::Base
  get("/") { "hello from #{settings.environment} as #{Process.euid}" }
end

puts Rack::MockRequest.new(App).get("/").body
