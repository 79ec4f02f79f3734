import EdgesinkCore
import EdgesinkCoreML
import EdgesinkMemory
import SwiftUI
import UniformTypeIdentifiers

/// The conversation, the strip above it, the field below it.
struct ChatView: View {
    @Bindable var model: ChatModel
    @State private var draft = ""
    @State private var isImporting = false
    @State private var showsSettings = false

    var body: some View {
        NavigationStack {
            VStack(spacing: 0) {
                RingStrip(gauges: model.gauges)
                Transcript(model: model)
                field
            }
            .navigationTitle(model.modelName)
            .navigationBarTitleDisplayMode(.inline)
            .toolbar { toolbar }
            .sheet(isPresented: $showsSettings) { SettingsView(model: model) }
            .fileImporter(isPresented: $isImporting, allowedContentTypes: [.folder]) { model.add($0) }
            .alert("Note", isPresented: hasNotice) {
            } message: {
                Text(model.notice ?? "")
            }
        }
    }

    private var hasNotice: Binding<Bool> {
        Binding(get: { model.notice != nil }, set: { if !$0 { model.notice = nil } })
    }

    private var field: some View {
        HStack {
            TextField("Message", text: $draft, axis: .vertical)
                .textFieldStyle(.roundedBorder)
                .lineLimit(1...4)
            if model.isBusy {
                Button("Stop", systemImage: "stop.fill") { model.stop() }
            } else {
                Button("Send", systemImage: "arrow.up.circle.fill", action: send)
                    .disabled(draft.isEmpty || model.phase != .ready)
            }
        }
        .labelStyle(.iconOnly)
        .padding()
    }

    @ToolbarContentBuilder private var toolbar: some ToolbarContent {
        ToolbarItem(placement: .topBarLeading) {
            Menu("Models", systemImage: "shippingbox") {
                ForEach(model.bundles, id: \.self) { bundle in
                    Button(bundle.lastPathComponent) { model.load(bundle) }
                }
                Button("Import a bundle…", systemImage: "folder") { isImporting = true }
            }
            .disabled(model.isBusy)
        }
        ToolbarItem(placement: .topBarTrailing) {
            Button("Settings", systemImage: "gearshape") { showsSettings = true }
        }
    }

    private func send() {
        model.ask(draft)
        draft = ""
    }
}

private struct Transcript: View {
    let model: ChatModel

    var body: some View {
        ScrollView {
            LazyVStack(alignment: .leading, spacing: 8) {
                if model.phase == .empty {
                    ContentUnavailableView(
                        "No model", systemImage: "shippingbox",
                        description: Text("Import a bundle made with edgesink export --target coreml"))
                }
                ForEach(model.lines) { line in
                    if !line.recalled.isEmpty { RecallNote(passages: line.recalled) }
                    Bubble(text: line.text, isUser: line.isUser)
                }
                if model.phase == .answering { AnswerBubble(answer: model.answer) }
                if model.phase == .loading { ProgressView("Loading") }
                if model.phase == .checking { ProgressView("Device check: \(model.progress)") }
            }
            .padding()
        }
        .defaultScrollAnchor(.bottom)
    }
}

/// Redrawn with every token; nothing else is.
private struct AnswerBubble: View {
    let answer: LiveAnswer

    var body: some View { Bubble(text: answer.text.isEmpty ? "…" : answer.text, isUser: false) }
}

/// What the model had forgotten and was told again, with the message that it belongs to.
private struct RecallNote: View {
    let passages: [Passage]

    var body: some View {
        DisclosureGroup("Recalled from memory: \(passages.count)") {
            ForEach(passages) { passage in
                Text("\(passage.role == .user ? "You" : "The model"), \(day(passage)): “\(passage.text)”")
                    .frame(maxWidth: .infinity, alignment: .leading)
            }
        }
        .font(.caption)
        .foregroundStyle(.secondary)
    }

    private func day(_ passage: Passage) -> String {
        Date(timeIntervalSince1970: passage.said).formatted(date: .abbreviated, time: .shortened)
    }
}

private struct Bubble: View {
    let text: String
    let isUser: Bool

    var body: some View {
        Text(text)
            .textSelection(.enabled)
            .padding(10)
            .background(isUser ? Color.accentColor.opacity(0.2) : Color.secondary.opacity(0.12))
            .clipShape(.rect(cornerRadius: 12))
            .frame(maxWidth: .infinity, alignment: isUser ? .trailing : .leading)
    }
}
